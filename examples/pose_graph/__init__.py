"""Loop closures of RegVPR in a SLAM back end: GTSAM straightens a drifting drive."""
