//! Verdicts about tokens, over a stub of the API server.
