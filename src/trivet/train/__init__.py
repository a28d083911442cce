"""The training room: one file a method, all of them trainers of transformers with TRL's arguments."""
