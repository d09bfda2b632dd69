"""The faces: the registry API and the operator's pages."""
