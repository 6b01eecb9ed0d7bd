"""Loop closures of RegVPR in a pose graph: GTSAM corrects a drive with odometry drift."""
