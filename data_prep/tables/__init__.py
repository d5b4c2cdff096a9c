"""From a batch of transitions, or of lengths alone, to the index tensors of the stack machine, for the whole batch."""

from spinn_tensor.data_prep.tables.forest import ForestTables as ForestTables
from spinn_tensor.data_prep.tables.forest import choose_width as choose_width
from spinn_tensor.data_prep.tables.forest import count_levels as count_levels
from spinn_tensor.data_prep.tables.forest import forest_tables as forest_tables
from spinn_tensor.data_prep.tables.forest import least_widths as least_widths
from spinn_tensor.data_prep.tables.lanes import LaneTables as LaneTables
from spinn_tensor.data_prep.tables.lanes import ThinStackTables as ThinStackTables
from spinn_tensor.data_prep.tables.lanes import lane_tables as lane_tables
from spinn_tensor.data_prep.tables.lanes import thin_stack_tables as thin_stack_tables
from spinn_tensor.data_prep.tables.own import OwnTables as OwnTables
from spinn_tensor.data_prep.tables.own import own_tables as own_tables
from spinn_tensor.data_prep.tables.rows import NULL_ROW as NULL_ROW
from spinn_tensor.data_prep.tables.sharing import HoistedLeaves as HoistedLeaves
