"""A LeRobot v3 dataset as it lies on disk: metadata, episodes, footage, signals."""
