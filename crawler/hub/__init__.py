"""HTTP to a Hub: the client, its pace, and what an answer that is no success means."""
