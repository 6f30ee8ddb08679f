"""The page of `jaxdbd app`, and the contact sheet that it shares with `predict --report`, with their JS and CSS."""
