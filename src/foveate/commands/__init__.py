"""The commands of `foveate`, each a module with a function `main`."""
