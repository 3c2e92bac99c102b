"""What a deployment of the manifest needs: files for systemd, compose and Kubernetes, by `fleet deploy`."""
