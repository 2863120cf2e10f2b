"""The hub beside other servers: fan-out, stuck members, many rooms, everybody back at once."""
