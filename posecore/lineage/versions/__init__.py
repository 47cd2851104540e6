"""What a registered version says of itself: its tags, the data it read, the weights it came from, its folder."""
