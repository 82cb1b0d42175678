"""Methods by name, from files and from entry points."""

import hashlib
import importlib
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import methods
from methods import registry, sources
from methods.contract import Method

PLUGIN = textwrap.dedent(
    '''
    from dataclasses import dataclass
    from enum import Enum

    from methods.contract import Draw, Method
    from methods.registry import register


    class Pace(Enum):
        slow = "slow"
        fast = "fast"


    @register("{name}")
    @dataclass
    class Plugin(Method):
        """A plugin for the tests."""

        pace: Pace = Pace.slow
        strength: float | None = None
    '''
)


@pytest.fixture
def plugin(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    name = f"plugin_of_{request.node.name.split('[')[0]}"[:60]
    path = tmp_path / f"{name}.py"
    path.write_text(PLUGIN.format(name=name))
    yield path
    registry._forget(f"bsgal_bench_method_{name}")


def test_the_built_in_methods_are_there() -> None:
    expected = {"baseline", "copy_paste", "xpaste", "clip_filter", "divergen", "random_selection", "bsgal"}
    assert expected | {"bsgal_per_image", "loss_band"} <= set(methods.names())
    assert all(methods.name_of(methods.find(name)) == name for name in methods.names())


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(LookupError, match=r"'bsgl': there are .*bsgal, "):
        methods.find("bsgl")


def test_register_refuses_what_is_no_method() -> None:
    with pytest.raises(ValueError, match="lower-case"):
        methods.register("My-Method")
    with pytest.raises(TypeError, match="does not derive from Method"):
        methods.register("stray")(object)  # type: ignore[type-var]

    class Bare(Method):
        level: float = 0.0

    with pytest.raises(TypeError, match="@dataclass"):
        methods.register("bare")(Bare)
    with pytest.raises(ValueError, match="already taken by BSGAL"):
        methods.register("bsgal")(methods.find("xpaste"))


@pytest.mark.parametrize("name", methods.names())
def test_options_are_a_hydra_config(name: str) -> None:
    tree = OmegaConf.structured(methods.find(name))
    method = OmegaConf.to_object(tree)
    assert method == methods.find(name)()
    method.validate()
    with pytest.raises(OmegaConfBaseException):
        OmegaConf.merge(tree, {"no_such_option": 1})


def test_enums_are_taken_by_name() -> None:
    tree = OmegaConf.merge(
        OmegaConf.structured(methods.find("bsgal")), OmegaConf.from_dotlist(["mode=paste_or_ori", "scope=heads"])
    )
    assert OmegaConf.to_object(tree).mode.name == "paste_or_ori"


def test_a_file_is_read_once_and_found(plugin: Path) -> None:
    assert methods.load_file(plugin) == [plugin.stem]
    cls = methods.find(plugin.stem)
    assert methods.load_file(plugin) == [plugin.stem]
    assert methods.find(plugin.stem) is cls
    assert registry.source_file(cls) == str(plugin)


def test_the_fingerprint_follows_the_file(plugin: Path) -> None:
    methods.load_file(plugin)
    before = methods.source_fingerprint(methods.find(plugin.stem))
    plugin.write_text(plugin.read_text() + "# changed\n")
    assert methods.source_fingerprint(methods.find(plugin.stem)) != before
    assert methods.source_fingerprint(methods.find("bsgal")) is None


def test_a_spawned_process_unpickles_a_file_s_method_with_its_enums(plugin: Path, tmp_path: Path) -> None:
    methods.load_file(plugin)
    cls = methods.find(plugin.stem)
    pace = type(cls().pace).fast  # type: ignore[attr-defined]
    (tmp_path / "m.pickle").write_bytes(pickle.dumps(cls(pace=pace, strength=0.5)))  # type: ignore[call-arg]
    code = "import pickle, sys; m = pickle.load(open(sys.argv[1], 'rb')); print(m.pace.name, m.strength)"
    root = Path(methods.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.pickle")], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.split() == ["fast", "0.5"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", "registers no method"),
        ("import no_such_thing\n", "ModuleNotFoundError"),
        ("def f(:\n", "SyntaxError"),
    ],
)
def test_a_file_that_is_no_plugin_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken_plugin.py"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        methods.load_file(path)
    assert "broken_plugin.py" in str(caught.value)
    assert "bsgal_bench_method_broken_plugin" not in sys.modules


def test_two_files_of_one_name_are_told_apart(plugin: Path, tmp_path: Path) -> None:
    methods.load_file(plugin)
    other = tmp_path / "elsewhere" / plugin.name
    other.parent.mkdir()
    other.write_text(plugin.read_text())
    with pytest.raises(ValueError, match="rename one"):
        methods.load_file(other)
    with pytest.raises(FileNotFoundError):
        methods.load_file(tmp_path / "absent.py")


# --------------------------------------------------------------------------------------- what a plugin is made of


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on Python's path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("of_a_test_")]:
        del sys.modules[name]
    for name, cls in list(registry._classes.items()):
        if cls.__module__.startswith("of_a_test_"):
            del registry._classes[name]


def written(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


METHOD = """
from dataclasses import dataclass
from methods.contract import Method
from methods.registry import register
{imports}

@register("{name}")
@dataclass
class Made({base}):
    pass
"""


def fingerprint_of(module: str) -> str:
    return methods.source_fingerprint(importlib.import_module(module).Made) or ""


def test_a_plugin_s_whole_package_counts(importable: Path) -> None:
    package = importable / "of_a_test_package"
    written(package, method=METHOD.format(imports="", name="of_a_package", base="Method"), deep__helper="x = 1\n")
    (package / "__init__.py").write_text("")
    before = fingerprint_of("of_a_test_package.method")
    assert before == fingerprint_of("of_a_test_package.method")
    written(package, deep__helper="x = 2\n")
    assert fingerprint_of("of_a_test_package.method") != before


@pytest.mark.parametrize("link", ["class", "import"])
def test_what_a_plugin_builds_on_counts(link: str, importable: Path) -> None:
    """Another plugin that it derives from, or a helper beside it that it imports; no library."""
    helper = METHOD.format(imports="", name=f"of_a_base_{link}", base="Method")
    written(importable, **{f"of_a_test_base_{link}": helper})
    imports = f"import numpy\nfrom of_a_test_base_{link} import Made as Base"
    base = "Base" if link == "class" else "Method"
    written(importable, **{f"of_a_test_{link}": METHOD.format(imports=imports, name=f"of_a_{link}", base=base)})
    before = fingerprint_of(f"of_a_test_{link}")
    written(importable, **{f"of_a_test_base_{link}": helper + "# changed\n"})
    assert fingerprint_of(f"of_a_test_{link}") != before


def test_an_installed_plugin_s_version_counts(importable: Path) -> None:
    written(importable, of_a_test_module=METHOD.format(imports="", name="of_a_module", base="Method"))
    alone = fingerprint_of("of_a_test_module")
    assert alone == hashlib.sha256((importable / "of_a_test_module.py").read_bytes()).hexdigest()

    def installed(version: str) -> str:
        info = importable / "of_a_test_module.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: of-a-test-module\nVersion: {version}\n")
        (info / "top_level.txt").write_text("of_a_test_module\n")
        (info / "RECORD").write_text("of_a_test_module.py,,\n")
        importlib.invalidate_caches()
        sources._distributions.cache_clear()
        return fingerprint_of("of_a_test_module")

    assert len({alone, installed("1.0"), installed("1.1")}) == 3
