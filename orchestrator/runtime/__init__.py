"""What runs inside a worker, one role a module."""
