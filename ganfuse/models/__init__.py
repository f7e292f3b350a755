"""The systems: one file each, with architecture and recipe, and `create` to build them by name."""

from ganfuse.models import bigan as bigan
from ganfuse.models import biggan as biggan
from ganfuse.models import biggan_deep as biggan_deep
from ganfuse.models import cgan as cgan
from ganfuse.models import cogan as cogan
from ganfuse.models import csgan as csgan
from ganfuse.models import cyclegan as cyclegan
from ganfuse.models import dcgan as dcgan
from ganfuse.models import discogan as discogan
from ganfuse.models import dualgan as dualgan
from ganfuse.models import gan as gan
from ganfuse.models import gan_cls as gan_cls
from ganfuse.models import logan as logan
from ganfuse.models import progan as progan
from ganfuse.models import sagan as sagan
from ganfuse.models import stylegan as stylegan
from ganfuse.models import stylegan2 as stylegan2
from ganfuse.models import ugatit as ugatit
from ganfuse.models import unet_gan as unet_gan
from ganfuse.models import unit as unit
from ganfuse.models.registry import ModelInfo, create, list_models, model_info, register_model

__all__ = ["ModelInfo", "create", "list_models", "model_info", "register_model"]
