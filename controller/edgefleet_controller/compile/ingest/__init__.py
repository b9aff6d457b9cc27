"""Models and samples as they come: checked, described, and put into the form every build uses."""
