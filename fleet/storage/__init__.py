"""Where large payloads lie, outside of histories."""
