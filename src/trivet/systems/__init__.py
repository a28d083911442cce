"""The system: specification and building it."""
