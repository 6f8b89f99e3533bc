"""Experiments over HTTP: a process beside a checkout that queues them and runs them in clones of their own."""
