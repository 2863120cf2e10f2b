"""What a browser is given: the client in JavaScript, and a page."""
