"""The hands: processes that do things to the world."""
