"""Footage to pictures: demuxing, decoding, sampling, contact sheets. The home of PyAV and Pillow."""
