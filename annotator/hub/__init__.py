"""The Hugging Face Hub: pull, push, and the bucket in which runs share their log."""
