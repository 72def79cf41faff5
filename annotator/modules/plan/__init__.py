"""The `plan` module: subtasks, plan, memory and rephrasings of the task."""
