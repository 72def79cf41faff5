"""Re-derive what a run recorded, and report what differs."""
