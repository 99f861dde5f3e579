"""The command line: parses arguments, calls the client."""

from orchestrator.cli.entry import main

__all__ = ["main"]
