"""Masks in the annotation formats of other programs: polygons, run lengths, and readers of COCO, YOLO and CVAT."""
