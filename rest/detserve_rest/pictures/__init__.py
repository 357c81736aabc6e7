"""From a request to the encoded picture in it."""
