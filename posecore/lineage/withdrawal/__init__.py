"""Taking a person, a picture or a video out again: what is concerned, how it is done, and its record."""
