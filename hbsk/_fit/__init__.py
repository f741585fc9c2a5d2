"""The one room that knows data, model, engine and posterior: the story of a fit, for each likelihood."""
