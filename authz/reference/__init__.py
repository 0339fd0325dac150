"""What the reference page (`/api/docs`) says of our own endpoints: a file a subject.

- Only `python -m tests.generated` and the tests import this. The service serves the file that came
  of it, so that nobody who asks for a decision pays for the page.
- Each route of the application is described once, and nothing else is; tests hold every answer
  that they see against what is said here.
"""
