"""Thin clients of the outside world. They never retry: the limiter and Temporal own waiting and retries."""
