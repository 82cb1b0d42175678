"""Stop signals set a flag and nothing else."""

import os
import signal
import threading

import pytest

from harness.run.signals import StopFlag


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM, signal.SIGINT])
def test_signal_sets_the_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopFlag() as flag:
        assert not flag.is_set()
        os.kill(os.getpid(), number)
        assert flag.is_set()
        assert flag.reason == number.name
    assert signal.getsignal(number) == before


def test_second_interrupt_is_an_interrupt() -> None:
    with StopFlag() as flag:
        os.kill(os.getpid(), signal.SIGINT)
        assert flag.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_outside_the_main_thread_nothing_is_installed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def enter() -> None:
        with StopFlag():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert inside == [before]


def test_signal_before_the_inner_flag_reaches_it() -> None:
    with StopFlag():
        os.kill(os.getpid(), signal.SIGUSR2)
        with StopFlag() as inner:
            assert inner.reason == "SIGUSR2"
