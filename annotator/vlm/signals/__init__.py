"""Answers from gripper and motion signals alone, without a model."""
