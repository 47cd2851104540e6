"""A trained model on photos, folders and videos: sources, people, tracks, and what is written."""
