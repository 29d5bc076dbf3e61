"""How well soft labels predict where other raters disagree, and the search for a recipe that does it best."""
