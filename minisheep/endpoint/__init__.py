"""HTTP to servers that speak OpenAI's API.

post.py   one question: timeouts, retries, and every way in which it can fail
many.py   many questions at once
"""
