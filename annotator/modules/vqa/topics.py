"""What a `vqa` question is to be about: drawn per frame, so that questions differ from one frame to the next.

The lists go from the whole scene over things and their parts to states and what lies between things (several levels of
abstraction: Steerable VLA Policies, Zhao 2025, arXiv:2509.07626). The words are sent, so they are in the key; a
changed list wants a new VERSION of the module, or episodes that are done will not be asked anew.
"""

from collections.abc import Mapping

from annotator.config.settings import QuestionType

HANDLED = "the thing that the robot handles or is about to reach"
GRIPPER = "the robot's gripper or hand"
TARGET = "the place where something is to be put"
PART = "the part by which something here could be gripped, such as a handle, a rim or an edge"
OBSTACLE = "something that could get in the robot's way"
BACKGROUND = "something in the background or at the edge of the picture that has no part in the task"
SCENE = "the scene as a whole"

TOPICS: Mapping[QuestionType, tuple[str, ...]] = {
    "bbox": (HANDLED, GRIPPER, TARGET, PART, OBSTACLE, BACKGROUND, "all things of one kind"),
    "keypoint": (
        HANDLED,
        TARGET,
        PART,
        BACKGROUND,
        "the tip of the robot's gripper or of one of its fingers",
        "the point at which the robot touches, or should touch, something",
        "a free spot where something could be put down",
    ),
    "count": (
        SCENE,
        "things of the kind that the robot handles",
        "things that share a colour, a material or a shape",
        "things in or on one container, tray or surface",
        "parts of one thing, such as handles, wheels or fingers",
        "things within the gripper's reach",
        "things in the background that have no part in the task",
    ),
    "attribute": (
        HANDLED,
        TARGET,
        PART,
        BACKGROUND,
        "the state of the gripper: open or closed, empty or holding something",
        "the state of something: open or closed, full or empty, upright or lying, folded or spread",
        "the colour, the material or the shape of a thing",
    ),
    "spatial": (
        "where the thing that the robot handles lies or is held",
        "where the gripper is, as seen from the thing that it is nearest to",
        "where the place is at which something is to be put",
        "what lies in, on or under something else",
        "two things that lie side by side",
        "two things of which one is nearer the camera or hides part of the other",
        "where something in the background is",
    ),
}
