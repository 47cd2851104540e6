"""Single frames of video files, by number or by time, to the frame; decoded in processes of their own."""
