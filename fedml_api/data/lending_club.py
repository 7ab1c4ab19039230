"""Loans of Lending Club in the official file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fedml_api.data.dataset import data_sources
from fedml_api.data.tables import Columns, Groups, TableSource, read_csv
from fedml_core.errors import DataError
from fedml_core.settings import settings

BAD = (
    *("Charged Off", "Default", "Does not meet the credit policy. Status:Charged Off", "In Grace Period"),
    *("Late (16-30 days)", "Late (31-120 days)"),
)
INCOME = "annual_inc_comp"
QUALIFICATION = (
    *("grade", "emp_length", "home_ownership", INCOME, "verification_status", "total_rev_hi_lim", "tot_hi_cred_lim"),
    *("total_bc_limit", "total_il_high_credit_limit"),
)
LOAN = ("loan_amnt", "term", "initial_list_status", "purpose", "application_type", "disbursement_method")
DEBT = (
    *("int_rate", "installment", "revol_bal", "revol_util", "out_prncp", "recoveries", "dti", "dti_joint", "tot_coll_amt"),
    *("mths_since_rcnt_il", "total_bal_il", "il_util", "max_bal_bc", "all_util", "bc_util", "total_bal_ex_mort"),
    *("revol_bal_joint", "mo_sin_old_il_acct", "mo_sin_old_rev_tl_op", "mo_sin_rcnt_rev_tl_op", "mort_acc"),
    *("num_rev_tl_bal_gt_0", "percent_bc_gt_75"),
)
REPAYMENT = (
    *("num_sats", "num_bc_sats", "pct_tl_nvr_dlq", "bc_open_to_buy", "last_pymnt_amnt", "total_pymnt", "total_pymnt_inv"),
    *("total_rec_prncp", "total_rec_int", "total_rec_late_fee", "tot_cur_bal", "avg_cur_bal"),
)
ACCOUNTS = (
    *("num_il_tl", "num_op_rev_tl", "num_rev_accts", "num_actv_rev_tl", "num_tl_op_past_12m", "open_rv_12m", "open_rv_24m"),
    *("open_acc_6m", "open_act_il", "open_il_12m", "open_il_24m", "total_acc", "inq_last_6mths", "open_acc", "inq_fi"),
    *("inq_last_12m", "acc_open_past_24mths"),
)
BEHAVIOUR = (
    *("num_tl_120dpd_2m", "num_tl_30dpd", "num_tl_90g_dpd_24m", "pub_rec_bankruptcies", "mths_since_recent_revol_delinq"),
    *("num_accts_ever_120_pd", "mths_since_recent_bc_dlq", "chargeoff_within_12_mths", "collections_12_mths_ex_med"),
    *("mths_since_last_major_derog", "acc_now_delinq", "pub_rec", "mths_since_last_delinq", "delinq_2yrs", "delinq_amnt"),
    "tax_liens",
)
TEXTS = (
    *("grade", "emp_length", "home_ownership", "verification_status", "term", "initial_list_status", "purpose", "application_type"),
    "disbursement_method",
)


@data_sources.register("lending_club")
@settings
class LendingClub(TableSource):
    """Loans of Lending Club issued in 2018, bad or not; 70 % train; 83 columns of `loan.csv`, in `data_folder/lending_club/`.

    The groups are FedML's (2021): the lender knows qualification and loan, 15 columns, and how it went; the bureau debt, repayment,
    accounts and behaviour, 68. With three parties the bureau has debt and repayment, 35, and a registry the 33 others. Texts are
    a feature each here, not ranks. Some columns are only known when a loan is over (`recoveries`, `total_rec_prncp`, ...).
    """

    groups: ClassVar[Mapping[int, Groups]] = {
        2: {"lender": QUALIFICATION + LOAN, "bureau": DEBT + REPAYMENT + ACCOUNTS + BEHAVIOUR},
        3: {"lender": QUALIFICATION + LOAN, "bureau": DEBT + REPAYMENT, "registry": ACCOUNTS + BEHAVIOUR},
    }

    def files(self, root: Path) -> Sequence[Path]:
        return [root / "lending_club" / "loan.csv"]

    def read(self, root: Path) -> tuple[Columns, np.ndarray]:
        (path,) = self.files(root)
        what = "the file of all accepted loans that Lending Club published until 2019, now on Kaggle"
        if not path.is_file():
            raise DataError(f"{path} is not there: it is {what}")
        names = [name for group in self.groups[2].values() for name in group if name != INCOME]
        numbers = [name for name in names if name not in TEXTS]
        columns = read_csv(
            path,
            [*TEXTS, "verification_status_joint", "loan_status"],
            [*numbers, "annual_inc", "annual_inc_joint"],
            only=("issue_d", lambda text: text.endswith("2018")),
            remedy=f"get it again: it is {what}",
        )
        joint = columns["verification_status"] == columns.pop("verification_status_joint")
        columns[INCOME] = np.where(joint, columns.pop("annual_inc_joint"), columns.pop("annual_inc"))
        return columns, np.isin(columns.pop("loan_status").astype(str), BAD).astype(np.int64)
