"""The vocabulary: one small set of subtask labels and memory milestones for a dataset."""
