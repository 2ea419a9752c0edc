"""What crosses a process boundary: commands, events, error codes, names on the broker."""
