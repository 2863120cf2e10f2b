"""An HTTP client for trio on httpx or httpx2: priority, cache, retries, deadlines."""
