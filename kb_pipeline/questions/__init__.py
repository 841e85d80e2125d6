"""Use cases that read knowledge and answer: what worked, what is near, has the market moved on."""
