"""Commands of the Hugging Face Hub: pull, push, job."""
