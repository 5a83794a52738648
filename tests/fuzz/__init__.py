"""Bad input: whatever comes in, the answer is a result or one clear error, in bounded time and memory."""
