"""The published configurations beside the composed recipes of `harness/conf/recipe`, value by value.

`papers.yaml` says where each recipe comes from; `published/` holds every published setting with its file and line.
"""
