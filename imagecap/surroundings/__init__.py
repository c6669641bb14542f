"""What lies around a process of ours: environment variables, the git repository, files that DVC ignores."""
