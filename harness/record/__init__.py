"""What runs leave behind and what sweeps expect.

    runs/<run_id>/config.yaml           the resolved configuration
                  record.json           `record.Record`
                  metrics.jsonl         one line a logged step
                  decisions.parquet     one row per image and decision; see `decisions`
                  per_category.parquet  AP of every category
                  matches.parquet, ground_truth.parquet  what was found, for further questions; see `matches`
                  gallery/              a few pictures for reports; see `gallery`
                  scores.csv, embeddings.npy  of an offline stage
                  log.txt, checkpoint/, claim/
    runs/sweeps/<name>/manifest.json    `manifest.Manifest`

This room imports nothing of the harness, since reports build on it alone; and neither torch nor pandas where a module
is imported, so that `harness status` starts at once.
"""
