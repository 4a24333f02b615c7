"""The parts of ``benchmarks/run.py``: processes, gateways, load, jobs and the report."""
