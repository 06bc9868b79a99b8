"""The config groups a user can choose from; shipped as the package `fusion_eval.conf`."""
