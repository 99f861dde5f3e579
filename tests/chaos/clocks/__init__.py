"""On a worker's PYTHONPATH this folder gives it a clock that is wrong; see `sitecustomize.py`."""
