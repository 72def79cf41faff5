"""A small simulated pick-and-place robot, drawn from two cameras and written as LeRobot v3.0.

motion: what happens in an episode → solids: shapes and cameras → scene: one frame's pixels
→ footage: encoded video or PNG → statistics, layout: the dataset's files.
"""
