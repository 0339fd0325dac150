"""The manifests in deploy/: rendered by the real kustomize and helm, and what must hold of them."""
