"""Objects from the scores of pictures: the student is a scene, its samples are views."""
